"""The four classes, in the order of every array, table and figure, and how soon each needs an eye doctor.

The order is alphabetical: that of Kermany's folders and of MedMNIST's OCTMNIST label numbers.
"""

LABELS: tuple[str, ...] = ("CNV", "DME", "DRUSEN", "NORMAL")

# Referral urgency after Kermany et al. 2018, Cell 172:1122, figure 2.
URGENCY: dict[str, str] = {"CNV": "urgent", "DME": "urgent", "DRUSEN": "routine", "NORMAL": "observation"}

NAMES: dict[str, str] = {
    "CNV": "choroidal neovascularisation",
    "DME": "diabetic macular edema",
    "DRUSEN": "drusen",
    "NORMAL": "normal",
}

# Stands wherever a prediction is shown.
NOTICE = "Decision support for research. Not a medical device."


def index_of(label: str) -> int:
    """Return the position of a label name, 0 to 3; raise KeyError for an unknown one."""
    try:
        return LABELS.index(label)
    except ValueError:
        raise KeyError(label) from None

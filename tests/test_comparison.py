"""Several models compared: numbers against scikit-learn, names, tables, figures, curves and the page."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scored import simulated
from sklearn import metrics as oracle

from octlet.core.errors import InputError, UsageError
from octlet.core.labels import NOTICE
from octlet.evaluate import comparison_figures, curves, figures
from octlet.evaluate.comparison import Contender, compare_models, newly_called_normal
from octlet.evaluate.comparison_report import comparison_page
from octlet.evaluate.comparison_tables import differences_table, models_table, p_text, table_csv
from octlet.evaluate.naming import default_names, file_names
from octlet.evaluate.paired import compare
from octlet.evaluate.summary import summarise

SKILLS = {"float": 2.5, "int8": 2.4, "pruned": 1.0}


def three(**costs):
    """Three contenders on the same scans; the last gives its scans in another order."""
    contenders = []
    for seed, (name, skill) in enumerate(SKILLS.items()):
        p = simulated(seed, skill=skill)
        p = p.select(np.arange(60)[::-1]) if name == "pruned" else p
        size, ratio = costs.get(name, (None, None))
        contenders.append(Contender(name, p, {"name": f"{name}.csv", "sha256": "f" * 64}, size, ratio))
    return contenders


@pytest.fixture(scope="module")
def result():
    costs = {"float": (1000, 1.0), "int8": (250, 3.5)}
    return compare_models(three(**costs), margin=0.05, seed=3, resamples=100)


def drawn_figures(monkeypatch, draw):
    """Return the matplotlib figures that `draw` composes."""
    kept = []
    monkeypatch.setattr(figures, "encoded", lambda figure: kept.append(figure) or b"undrawn")
    draw()
    return kept


# Numbers --------------------------------------------------------------------------------------------------


def test_the_figures_of_each_model_are_scikit_learns(result):
    for contender, model in zip(three(), result["models"], strict=True):
        p = contender.predictions
        assert model["name"] == contender.name
        assert model["accuracy"]["value"] == pytest.approx(oracle.accuracy_score(p.labels, p.predicted))
        balanced = oracle.balanced_accuracy_score(p.labels, p.predicted)
        assert model["balanced_accuracy"]["value"] == pytest.approx(balanced)
        auc = oracle.roc_auc_score(p.labels, p.probabilities, multi_class="ovr")
        assert model["macro_auc"]["value"] == pytest.approx(auc)
        recall = oracle.recall_score(p.labels, p.predicted, average=None)
        assert list(model["sensitivity"].values()) == pytest.approx(list(recall))
        assert model["confusion_matrix"] == oracle.confusion_matrix(p.labels, p.predicted).tolist()
        missed = {p.paths[k] for k in range(60) if p.labels[k] <= 1 and p.predicted[k] == 3}
        assert set(model["urgent_called_normal_paths"]) == missed
        assert model["urgent_called_normal"] == len(missed)


def test_intervals_are_those_of_a_summary_and_of_a_pair_with_the_same_draws(result):
    ordered = [simulated(seed, skill=skill) for seed, skill in enumerate(SKILLS.values())]
    for p, model in zip(ordered, result["models"], strict=True):
        summary = summarise(p, seed=3, resamples=100)
        assert all(model[key] == summary[key] for key in ("accuracy", "balanced_accuracy", "macro_auc"))
    for p, each in zip(ordered[1:], result["comparisons"], strict=True):
        pair = compare(ordered[0], p, margin=0.05, seed=3, resamples=100)
        assert each == {"name": each["name"], **pair}


def test_ratios_are_of_the_reference_over_the_model_and_null_where_a_file_is_missing(result):
    ratios = [(model["bytes"], model["size_ratio"], model["latency_ratio"]) for model in result["models"]]
    assert ratios == [(1000, 1.0, 1.0), (250, 4.0, 3.5), (None, None, None)]
    without = compare_models(three(int8=(250, None)), resamples=100)["models"]
    assert [(model["bytes"], model["size_ratio"]) for model in without] == [
        (None, None),
        (250, None),
        (None, None),
    ]


def test_scans_that_the_reference_did_not_call_normal_are_counted_apart(result):
    called = {model["name"]: set(model["urgent_called_normal_paths"]) for model in result["models"]}
    found = newly_called_normal(result, "pruned")
    assert set(found) == called["pruned"] - called["float"]
    assert found


def test_one_model_two_of_one_name_and_other_scans_are_refused():
    first, second, third = three()
    with pytest.raises(UsageError, match="two models or more"):
        compare_models([first])
    with pytest.raises(UsageError, match="name of its own"):
        compare_models([first, dataclasses.replace(second, name="float")])
    fewer = dataclasses.replace(third, predictions=simulated(n=59))
    with pytest.raises(InputError, match=r"59\.png is in 'float' and not in 'pruned'"):
        compare_models([first, second, fewer])


# Tables ---------------------------------------------------------------------------------------------------


def test_the_tables_tell_the_documents_numbers(result):
    headers, rows = models_table(result)
    assert all(len(row) == len(headers) for row in rows)
    balanced = result["models"][1]["balanced_accuracy"]
    told = dict(zip(headers, rows[1], strict=True))
    assert told["balanced"] == (
        f"{balanced['value']:.3f}\n{balanced['low']:.3f}\N{EN DASH}{balanced['high']:.3f}"
    )
    assert (told["size"], told["smaller"], told["faster"]) == ("0.0 MB", "4.00\u00d7", "3.50\u00d7")
    assert rows[2][-3:] == ["n/a", "n/a", "n/a"]
    headers, rows = differences_table(result)
    counts = result["comparisons"][1]["discordant"]
    told = dict(zip(headers, rows[1], strict=True))
    assert (told["model"], told["gained"], told["lost"]) == (
        "pruned",
        str(counts["only_model_right"]),
        str(counts["only_reference_right"]),
    )
    assert told["not inferior"] == "not shown"


def test_the_csv_reads_back_as_the_documents_numbers(result):
    rows = list(csv.DictReader(io.StringIO(table_csv(result))))
    assert [row["name"] for row in rows] == list(SKILLS)
    for row, model in zip(rows, result["models"], strict=True):
        for key in ("accuracy", "balanced_accuracy", "macro_auc"):
            read = [float(row[key]), float(row[f"{key}_low"]), float(row[f"{key}_high"])]
            assert read == [model[key][end] for end in ("value", "low", "high")]
        assert float(row["sensitivity_DME"]) == model["sensitivity"]["DME"]
    assert (rows[1]["bytes"], rows[1]["size_ratio"], rows[2]["bytes"]) == ("250", "4.0", "")
    each = result["comparisons"][1]
    assert float(rows[2]["balanced_accuracy_difference"]) == each["difference"]["balanced_accuracy"]["value"]
    assert float(rows[2]["mcnemar_p"]) == each["discordant"]["mcnemar_p"]
    assert (rows[0]["not_inferior"], rows[2]["not_inferior"]) == ("", "false")


def test_p_values_are_told_to_three_places():
    assert (p_text(0.0421), p_text(0.00099), p_text(1.0)) == ("0.042", "< 0.001", "1.000")


# Names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "told", "expected"),
    [
        (["a.csv", "b.csv"], [None, None], ["a", "b"]),
        (["x/evaluation/predictions.csv", "y/evaluation/predictions.csv"], [None, None], ["x", "y"]),
        (["x/fold-0/predictions.csv", "y/fold-0/predictions.csv"], [None, None], ["x/fold-0", "y/fold-0"]),
        (["x/model.octlet", "y/model.octlet"], ["net", "net"], ["x", "y"]),
        (["x/model.octlet", "q.octlet"], ["net", "net int8"], ["net", "net int8"]),
        (["predictions.csv", "/a/v1.2/predictions.csv"], [None, None], ["predictions", "v1.2"]),
    ],
)
def test_a_default_name_is_what_tells_sources_apart(paths, told, expected):
    assert default_names([Path(path) for path in paths], told) == expected


def test_one_path_twice_has_no_name_of_its_own():
    with pytest.raises(UsageError, match="2 are called 'a'"):
        default_names([Path("a.csv"), Path("a.csv")], [None, None])


def test_file_names_are_safe_and_unique_whatever_the_case():
    names = ["../x", "A b", "a/b", "A-B", "table", "\u00e9\u00e9", "x" * 99]
    found = file_names(names, taken=["table"])
    assert found == ["x", "A-b", "a-b-2", "A-B-3", "table-2", "model", "x" * 60]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in found)


# Figures and the page -------------------------------------------------------------------------------------


def test_the_forest_plot_shows_estimates_intervals_and_the_margin(result, monkeypatch):
    (figure,) = drawn_figures(monkeypatch, lambda: comparison_figures.difference_png(result))
    panels = figure.axes
    keys = [("balanced accuracy", None), ("sensitivity, CNV", "CNV"), ("sensitivity, DME", "DME")]
    for axes, (head, label) in zip(panels, keys, strict=True):
        assert axes.get_title(loc="left") == head
        lines = {tuple(line.get_xdata()): line for line in axes.lines}
        for row, each in enumerate(result["comparisons"]):
            difference = each["difference"]
            estimate = difference["sensitivity"][label] if label else difference["balanced_accuracy"]
            assert tuple(lines[estimate["low"], estimate["high"]].get_ydata()) == (row, row)
            point = next(line for line in axes.lines if list(line.get_xdata()) == [estimate["value"]])
            hollow = label is None and not each["not_inferior"]
            assert (point.get_markerfacecolor() == figures.LIGHT.paper) is hollow
        assert ((-0.05, -0.05) in lines) == (label is None)
        low, high = axes.get_xlim()
        assert low < min(min(ends) for ends in lines if ends != (0, 0))
        assert high > 0


@pytest.mark.parametrize(
    ("models", "grid"), [(2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (7, (3, 3))]
)
def test_confusion_matrices_wrap_into_rows(result, monkeypatch, models, grid):
    many = {**result, "models": [result["models"][k % 3] for k in range(models)]}
    (figure,) = drawn_figures(monkeypatch, lambda: comparison_figures.confusions_png(many))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == models
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    cells = [text.get_text() for text in shown[1].texts]
    assert all(str(scans) in cells for row in result["models"][1]["confusion_matrix"] for scans in row)


def test_figures_are_png_and_have_their_theme():
    many = compare_models([dataclasses.replace(each, name=f"$_{{{each.name}}}$") for each in three()])
    histories = [curves.History("$\\frac$", ({**dict.fromkeys(curves.NEEDED, 0.5), "epoch": 1},))]
    for theme, corner in ((figures.LIGHT, (255, 255, 255)), (figures.DARK, (21, 25, 28))):
        for png in (
            comparison_figures.confusions_png(many, theme),
            comparison_figures.difference_png(many, theme),
            curves.curves_png(histories, theme),
        ):
            assert Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0)) == corner


def test_a_sample_without_some_classes_can_be_drawn_and_tabled():
    p, q = simulated(), simulated(1)
    only = np.flatnonzero(p.labels == 2)
    pair = [
        Contender(name, each.select(only), {"name": name, "sha256": ""})
        for name, each in (("p", p), ("q", q))
    ]
    result = compare_models(pair, resamples=100)
    assert comparison_figures.difference_png(result)
    assert models_table(result)[1][0][4] == "n/a"
    assert "sensitivity_CNV" in table_csv(result)


def test_the_page_names_what_a_reader_must_know(result):
    drawings = dict.fromkeys(("confusion", "difference", "curves"), (b"light", b"dark"))
    comparison = {**result, "notes": ["Beware <x>."], "latency": {"rounds": 21, "warm_up": 3, "threads": 1}}
    comparison["comparisons"] = [{**each} for each in result["comparisons"]]
    comparison["comparisons"][0]["name"] = "<int8>"
    comparison["models"] = [{**model} for model in result["models"]]
    comparison["models"][1]["name"] = "<int8>"
    html = comparison_page(comparison, drawings)
    assert html.count("data:image/png;base64,") == 6
    missed = {path for model in result["models"] for path in model["urgent_called_normal_paths"]}
    assert missed
    assert all(path in html for path in missed)
    for words in (NOTICE, "&lt;int8&gt;", "Beware &lt;x&gt;.", "60 scans of", "f" * 64, "21 rounds"):
        assert words in html
    assert "<int8>" not in html
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"https?://", html)


# Training curves ------------------------------------------------------------------------------------------


def epochs(n, start=2.0):
    rows = []
    for epoch in range(1, n + 1):
        numbers = (epoch, start / epoch, start / epoch + 0.1, 1 - 0.5 / epoch)
        rows.append(dict(zip(curves.NEEDED, numbers, strict=True)))
    return rows


def written(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({**row, "lr": 1e-4, "val_accuracy": 0.5}) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def test_curves_of_several_runs_stand_in_one_figure_with_their_own_epochs(tmp_path, monkeypatch):
    runs = {"float": epochs(6), "QAT": epochs(2, start=0.5)}
    histories = [curves.read_history(written(tmp_path / name, rows), name) for name, rows in runs.items()]
    (figure,) = drawn_figures(monkeypatch, lambda: curves.curves_png(histories))
    assert len(figure.axes) == 3
    for axes, key in zip(figure.axes, curves.NEEDED[1:], strict=True):
        for line, (name, rows) in zip(axes.lines, runs.items(), strict=True):
            assert line.get_label() == name
            assert list(line.get_xdata()) == [row["epoch"] for row in rows]
            assert list(line.get_ydata()) == [row[key] for row in rows]
    looks = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines]
    assert len(set(looks)) == len({mark for _, mark in looks}) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no epoch"),
        ("no json\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is not a JSON object"),
        ('{"epoch": 1, "train_loss": NaN}\n', "line 1 has no number 'train_loss'"),
        ('{"epoch": true}\n', "line 1 has no number 'epoch'"),
    ],
)
def test_a_history_that_is_none_is_refused_by_line(tmp_path, text, told):
    file = tmp_path / "metrics.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        curves.read_history(tmp_path, "run")
    assert caught.value.path == str(file)
    with pytest.raises(InputError, match="cannot read a run's epochs"):
        curves.read_history(tmp_path / "none", "run")

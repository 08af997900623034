// What is said of a prediction. Who judges is the server: nothing here computes an urgency or a set.

export const LABELS = ["CNV", "DME", "DRUSEN", "NORMAL"];

export const NAMES = {
  CNV: "choroidal neovascularisation",
  DME: "diabetic macular edema",
  DRUSEN: "drusen",
  NORMAL: "normal",
};

export const URGENCIES = ["urgent", "routine", "observation", "unknown"]; // the most pressing first

const URGENCY_WORDS = {
  urgent: "Urgent",
  routine: "Routine",
  observation: "Observation",
  unknown: "No judgement",
};
const REFUSALS = {
  "not an OCT scan": "Not an OCT scan",
  "poor quality": "Too poor to judge",
};

export const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/** A probability as a person reads it: never 0 or 100 where it is neither. */
export function percent(share, digits = 1) {
  const text = (100 * share).toFixed(digits);
  if (share < 1 && Number(text) === 100) return "> 99.9 %";
  if (share > 0 && Number(text) === 0) return "< 0.1 %";
  return `${text} %`;
}

export const isRefused = (prediction) => prediction.abstain in REFUSALS;

/** The words over a result: {sign, word, line, why, share}. A refusal comes before any class. */
export function verdict(prediction) {
  const { label, urgency, abstain } = prediction;
  const why = prediction.explanation ?? "";
  if (isRefused(prediction)) {
    return { sign: "unknown", word: REFUSALS[abstain], line: "The model gives no judgement of this scan.", why, share: "" };
  }
  const named = { sign: urgency, word: URGENCY_WORDS[urgency] ?? urgency, why };
  if (abstain === "uncertain") return { ...named, line: `Uncertain: ${either(possible(prediction))}`, share: "" };
  return { ...named, line: label === "NORMAL" ? "Normal" : capital(NAMES[label]), share: percent(prediction.probabilities[label], 0) };
}

/** One line of a list: what is said of it in a few words. */
export function brief(prediction) {
  if (isRefused(prediction)) return REFUSALS[prediction.abstain];
  const classes = possible(prediction);
  if (prediction.abstain && classes.length > 1) return `${classes.join(" or ")}?`;
  const share = percent(prediction.probabilities[prediction.label], 0);
  return `${prediction.label}${prediction.abstain ? "?" : ""} ${share}`;
}

export const urgencyWord = (urgency) => URGENCY_WORDS[urgency] ?? urgency;

/** How a result stands in an order of urgency: rank, then the more probable of what is urgent. */
export function pressing(prediction) {
  const { CNV, DME } = prediction.probabilities;
  return URGENCIES.indexOf(prediction.urgency) - (CNV + DME) / 2;
}

let coverage = 95;

/** Take the coverage of the model's sets, 0 to 1, as /api/health tells it. */
export function setCoverage(share) {
  coverage = Math.round(1000 * share) / 10;
}

/** What the set says, in a sentence. */
export function setWords(prediction) {
  if (!prediction.set) {
    return "This model file holds no calibration: how far to trust these figures is not known.";
  }
  if (!prediction.set.length) return `No class is probable enough for the ${coverage} % set.`;
  return `The classes in the ${coverage} % set cannot be ruled out: for scans like those it was calibrated on, the set holds the actual class ${coverage} times in 100.`;
}

/** The class that is called, and those that cannot be ruled out; an eye has no set. */
const possible = ({ label, set }) => [label, ...(set ?? []).filter((each) => each !== label)];
const either = (set) => (set.length > 1 ? `${set.slice(0, -1).join(", ")} or ${set.at(-1)}` : `perhaps ${set[0]}`);

/** How a class stands to the set, in words beside its bar. */
export function membership({ label, set }, each) {
  if (!set) return "";
  if (set.includes(each)) return `in the ${coverage} % set`;
  return each === label ? `not in the ${coverage} % set` : "ruled out";
}
const capital = (text) => text[0].toUpperCase() + text.slice(1);

"""The claims of a paper: declared with their rule before the result, judged by it after."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import data
from helpers.lesson.page import Page
from helpers.lesson.widgets import ask
from helpers.stats import Estimate
from helpers.templates import render

VERDICTS = (
    "reproduced",
    "partly",
    "not at this scale",
    "contradicted",
    "cannot be tested here",
)
_NOT_JUDGED = "not judged"

# Verdict -> (sign, text colour, background): never told by colour alone.
_LOOKS = {
    "reproduced": ("✔", "#ffffff", "#00694d"),
    "partly": ("◐", "#000000", "#f0b840"),
    "not at this scale": ("○", "#000000", "#8ccbf0"),
    "contradicted": ("✘", "#ffffff", "#a63d00"),
    "cannot be tested here": ("?", "#ffffff", "#5f5f5f"),
    _NOT_JUDGED: ("…", "#333333", "#e4e4e4"),
}
_WORDS = ("statement", "paper", "source", "criterion", "whose")
_WHOSE = {"paper": "the paper's claim", "ours": "our claim"}


def _project_root() -> Path | None:
    """The folder that holds pyproject.toml and notebooks/, above the package or above here."""
    for folder in (*Path(__file__).resolve().parents, Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return None


def _plain(value: Any) -> Any:
    """`value` in types that JSON has, infinity as None; a ValueError where there is NaN."""
    if isinstance(value, Estimate):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    value = value.to_numpy() if hasattr(value, "to_numpy") else value  # tables
    if hasattr(value, "tolist"):  # arrays and tensors, and their numbers
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("NaN")
    if isinstance(value, float) and math.isinf(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _words(number: str) -> tuple[str, dict[str, dict], dict[str, dict]]:
    """Title, claims and predictions of data/NN_stem/claims.toml."""
    path = data.folder(number) / "claims.toml"
    where = f"{path.parent.name}/{path.name}"
    try:
        found = tomllib.loads(data.read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} is not valid TOML: {error}") from error
    title = data.usable_field(found, "title", str, where)
    claims, predictions = found.get("claim", {}), found.get("prediction", {})
    for id, words in claims.items():
        for key in _WORDS:
            data.usable_field(words, key, str, f"{where}, claim {id}")
        if words["whose"] not in _WHOSE:
            raise ValueError(
                f"{where}, claim {id}: `whose` is {words['whose']!r}, not one of {[*_WHOSE]}"
            )
    for id, words in predictions.items():
        for key, kind in (("question", str), ("options", list), ("answer", str), ("because", str)):
            data.usable_field(words, key, kind, f"{where}, prediction {id}")
        if words["answer"] not in words["options"]:
            raise ValueError(
                f"{where}, prediction {id}: the answer {words['answer']!r} is not among its options"
            )
    return title, claims, predictions


class Scorecard:
    """The claims of a paper, the criterion of each, and what came out here.

    The words of a claim stand in `data/NN_stem/claims.toml`. It is shown with its criterion before
    its result exists; the verdict is what its rule says about the evidence and cannot be typed.

    Args:
        number: the notebook's number, such as "04"; names the folder and the JSON file.

    Raises:
        ValueError: claims.toml is no TOML, or a field is missing; file, claim and field are named.
    """

    def __init__(self, number: str):
        self.number = number
        self.title, self._known, self._predictions = _words(number)
        self._claims: dict[str, dict[str, Any]] = {}
        self._rules: dict[str, Callable[..., str]] = {}

    def claim(
        self, id: str, *, rule: Callable[..., str] | None = None, otherwise: str | None = None
    ) -> None:
        """Show a claim's box and fix its rule, before its result.

        Args:
            id: a name in claims.toml, such as "C1".
            rule: maps the evidence (keyword arguments of `judge`) to one of VERDICTS.
            otherwise: instead of a rule, for evidence of yes and no: the verdict where nothing
                holds. All of it: reproduced; some of it: partly.

        Raises:
            ValueError: an unknown claim, one that was declared, perhaps even judged, before, or
                not exactly one of `rule` and `otherwise`.
        """
        if id not in self._known:
            raise ValueError(
                f"claim {id!r} is not in claims.toml (there: {', '.join(self._known)})"
            )
        if id in self._claims:
            state = "judged" if self._claims[id]["verdict"] in VERDICTS else "declared"
            raise ValueError(
                f"claim {id!r} was already {state}; a criterion is fixed once, before the result. "
                "To start over, run the notebook again from the cell that makes the scorecard."
            )
        if (rule is None) == (otherwise is None):
            raise ValueError(f"claim {id!r} needs either a `rule` or `otherwise`.")
        self._rules[id] = _all_or_some(id, otherwise) if rule is None else rule
        if not callable(self._rules[id]):
            raise TypeError(f"the rule of claim {id!r} must be a function of the evidence.")
        words = self._known[id]
        self._claims[id] = {
            "id": id,
            **{key: words[key] for key in _WORDS},
            "verdict": _NOT_JUDGED,
            "ours": None,
            "interval": None,
            "reason": "",
            "evidence": {},
        }
        text = (
            f"{id} ({_WHOSE[words['whose']]}): {words['statement']}\n"
            f"  the paper: {words['paper']} (source: {words['source']})\n"
            f"  criterion: {words['criterion']}"
        )
        Page(render("claim", claim=self._claims[id], whose=_WHOSE[words["whose"]]), text).show()

    def judge(self, id: str, *, ours: str | Estimate | None, reason: str, **evidence: Any) -> None:
        """Let the claim's rule decide, keep the result, and show claim and verdict.

        Args:
            id: a declared claim.
            ours: our number (an Estimate brings its interval), or None where there is none.
            reason: why it came out so, in a sentence.
            **evidence: what the rule looks at; it is written to the JSON file too.

        Raises:
            ValueError: an unknown claim, one that was judged before, NaN (neither above nor below
                anything, it passes rules), or a rule that returns something else than a verdict.
        """
        own = self._open(id)
        for name, value in {"ours": ours, **evidence}.items():
            try:
                _plain(value)
            except ValueError:
                says = f"claim {id!r}: {name!r} holds NaN; pass None where there is no number."
                raise ValueError(says) from None
        verdict = self._rules[id](**evidence)
        if verdict not in VERDICTS:
            raise ValueError(
                f"the rule of claim {id!r} returned {verdict!r}; it must return one of {VERDICTS}."
            )
        own.update(
            verdict=verdict,
            ours=None if ours is None else str(ours),
            interval=[ours.low, ours.high] if isinstance(ours, Estimate) else None,
            reason=reason,
            evidence=evidence,
        )
        self._show_verdict(own)

    def skip(self, id: str, why: str) -> None:
        """Leave a declared claim without verdict, and say why (other `MODEL`, other `SEED`)."""
        own = self._open(id)
        own["reason"] = why
        self._show_verdict(own)

    def verdict(self, id: str) -> str:
        """The verdict of a declared claim, or "not judged"."""
        return self._declared(id)["verdict"]

    def predict(self, id: str) -> None:
        """Ask for a guess before a result is shown; its answer stays folded in claims.toml's words.

        Raises:
            ValueError: claims.toml has no prediction of that name.
        """
        if id not in self._predictions:
            known = ", ".join(self._predictions) or "none"
            raise ValueError(f"prediction {id!r} is not in claims.toml (there: {known})")
        ask(**self._predictions[id])

    def table(self) -> Page:
        """The scorecard for display: verdict, claim, one sentence; the rest folded under each."""
        rows = [(claim, *_LOOKS[claim["verdict"]]) for claim in self._claims.values()]
        lines = [
            f"{sign} {claim['verdict']} | {claim['id']} {claim['statement']} "
            f"| here: {claim['ours'] or '–'} | paper: {claim['paper']}"
            for claim, sign, _, _ in rows
        ]
        title = f"Scorecard {self.number}: {self.title}"
        return Page(
            render("scorecard", rows=rows, title=title, whose=_WHOSE), "\n".join([title, *lines])
        )

    def write(self) -> Path | None:
        """Write build/scorecards/NN.json at the project's root.

        Returns:
            The file, or None where there is no project or no right to write.
        """
        root = _project_root()
        if root is None:
            return None
        card = {"number": self.number, "title": self.title, "claims": [*self._claims.values()]}
        target = root / "build" / "scorecards" / f"{self.number}.json"
        text = json.dumps(_plain(card), indent=1, ensure_ascii=False, allow_nan=False)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_suffix(".tmp")  # whole or not at all
            aside.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            aside.replace(target)
        except OSError:
            return None
        return target

    def _declared(self, id: str) -> dict[str, Any]:
        if id not in self._claims:
            known = ", ".join(self._claims) or "none yet"
            raise ValueError(
                f"claim {id!r} was not declared (declared: {known}); declare it first."
            )
        return self._claims[id]

    def _open(self, id: str) -> dict[str, Any]:
        """A declared claim without verdict."""
        own = self._declared(id)
        if own["verdict"] in VERDICTS:
            raise ValueError(
                f"claim {id!r} was already judged; to judge it again, run the notebook again from "
                "the cell that makes the scorecard."
            )
        return own

    def _show_verdict(self, own: dict[str, Any]) -> None:
        sign, ink, ground = _LOOKS[own["verdict"]]
        text = (
            f"{sign} {own['id']} {own['verdict']}: {own['statement']}\n  here: {own['ours'] or '–'}"
        )
        shown = render("verdict", claim=own, sign=sign, ink=ink, ground=ground)
        Page(shown, f"{text}; {own['reason']}" if own["reason"] else text).show()


def _all_or_some(id: str, otherwise: str) -> Callable[..., str]:
    """The usual rule for evidence of yes and no."""
    if otherwise not in VERDICTS:
        raise ValueError(f"claim {id!r}: `otherwise` must be one of {VERDICTS}; got {otherwise!r}.")

    def rule(**evidence: bool) -> str:
        odd = {name: held for name, held in evidence.items() if held not in (True, False)}
        if odd or not evidence:
            raise ValueError(f"claim {id!r}: evidence must be True or False; got {odd}.")
        held = [bool(value) for value in evidence.values()]
        return "reproduced" if all(held) else "partly" if any(held) else otherwise

    return rule

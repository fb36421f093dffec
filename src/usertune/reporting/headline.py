"""The comparison in one sentence that claims no more than the tests support."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from usertune.core.formatting import is_missing, p_equals, percent
from usertune.evaluation.groups import chosen_experiments
from usertune.evaluation.paired import SIGNIFICANT, Gap, gap_between
from usertune.evaluation.recipe import ComparisonDesign
from usertune.evaluation.tables import records
from usertune.tasks.metrics import Metric

MOST_COMPARED = 3
# A sentence says what part of a gain is format, if that part is at least so large, as a fraction or a share of it.
FORMAT_POINTS = 0.01
FORMAT_SHARE = 0.1


def headline(
    design: ComparisonDesign,
    primary: Metric,
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    groups: pd.DataFrame | None = None,
) -> str:
    """Return the main result as one sentence, and a sentence on each group; what is answer format is on further lines.

    A group of experiments takes part as its chosen, or only, setting, the mean over seeds; its experiments do not take
    part, because the best of them on the test users would be chosen by the test.

    The stated comparisons are reported (see `usertune.evaluation.paired.stated_pairs`), up to `MOST_COMPARED` of them:
    those of a hypothesis in its order, else those of the best experiments. "Beats" and "falls behind" are used only if
    the p value, corrected for all stated comparisons, is below `SIGNIFICANT`.

    Args:
        design: the experiments.
        primary: the metric that is compared.
        summary, differences, groups: the tables of those names, see `usertune.evaluation.compare`.
    """
    rows = summary.set_index("experiment").loc[design.names]
    column = f"{primary.name}_samples" if f"{primary.name}_samples" in rows else "samples"
    users, samples = int(rows["users"].iloc[0]), int(rows[column].iloc[0])
    start = f"On {samples:,} samples of {users} user{'' if users == 1 else 's'}, "
    values, explained = _values(design, primary, rows[primary.name], groups)
    ranked = [str(name) for name in values.sort_values(ascending=primary.better == "lower", kind="stable").index]
    gaps = _stated(differences, ranked)
    if not gaps:
        alone = ranked[0] if ranked else design.names[0]
        return start + _alone(alone, primary, values, rows) + "." + explained
    shown, left = gaps[:MOST_COMPARED], len(gaps) - MOST_COMPARED
    level = f"{100 * rows['confidence'].iloc[0]:g} %"
    brackets = "" if all(is_missing(gap.low) for gap in shown) else f" (in brackets: {level} intervals)"
    more = f" The tables have {left} more comparison{'s' * (left > 1)}." if left > 0 else ""
    formats = "".join(f"\n{sentence}" for gap in shown if (sentence := format_sentence(gap, primary)))
    return start + "; ".join(_words(gap, primary) for gap in shown) + brackets + "." + more + explained + formats


def _stated(differences: pd.DataFrame, ranked: Sequence[str]) -> list[Gap]:
    """Return the stated comparisons: as the study states them, or, against the baseline, the best experiment first."""
    stated = differences[differences["corrected_for"] > 0]
    pairs = [(str(row["experiment"]), str(row["baseline"])) for row in records(stated)]
    gaps = [gap_between(differences, *pair) for pair in pairs]
    if len({baseline for _, baseline in pairs}) == 1 and all(name in ranked for name, _ in pairs):
        gaps.sort(key=lambda gap: ranked.index(gap.experiment))
    return gaps


def _values(
    design: ComparisonDesign, primary: Metric, values: pd.Series, groups: pd.DataFrame | None
) -> tuple[pd.Series, str]:
    """Return the values of what takes part, and a sentence on each group."""
    if groups is None:
        return values, ""
    grouped = {item.name for item in design.experiments if item.group is not None and item.name != design.baseline}
    found, sentences = values.drop(index=sorted(grouped)), []
    chosen = chosen_experiments(design, groups)
    for row in records(groups):
        if chosen.get(row["group"]) == tuple(row["experiments"].split(" ")):
            found[row["group"]] = row[primary.name]
            what = "other users' adapters" if row["group"] in design.matrix_groups else "seeds"
            seeds = f"the mean over {row['seeds']:.0f} {what}" if row["seeds"] > 1 else "one experiment"
            setting = f", with {row['setting']}, chosen by validation" if row["selected"] == 1 else ""
            sentences.append(f" {row['group']} is {seeds}{setting}.")
    unclear = [group for group in design.groups if group not in chosen]
    sentences += [f" No setting of {group} takes part, because none is chosen by validation." for group in unclear]
    return found, "".join(sentences)


def _alone(name: str, primary: Metric, values: pd.Series, rows: pd.DataFrame) -> str:
    value = f"{name} has a {primary.title} of {primary.text(values[name])} {primary.unit}".rstrip()
    if name not in rows.index:
        return value
    low, high = (float(rows[f"{primary.name}_{end}"][name]) for end in ("low", "high"))
    return f"{value} {primary.interval(low, high)}".rstrip()


def _words(gap: Gap, primary: Metric) -> str:
    name, other, unit = gap.experiment, gap.other, _unit(primary)
    size = f"{primary.text(abs(gap.difference))} {unit}"
    if is_missing(gap.difference):
        return f"{name} and {other} have no sample in common that has a value"
    if not is_missing(gap.p_holm) and gap.p_holm < SIGNIFICANT:
        verb = "beats" if (gap.difference > 0) == (primary.better == "higher") else "falls behind"
        ends = (gap.low, gap.high) if gap.difference > 0 else (-gap.high, -gap.low)
        return f"{name} {verb} {other} by {size} {primary.difference_interval(*ends)}".rstrip()
    if gap.difference == 0 and is_missing(gap.low):
        return f"{name} and {other} have equal {primary.title}"
    change = f"{primary.difference(gap.difference)} {unit} {primary.difference_interval(gap.low, gap.high)}".rstrip()
    if is_missing(gap.p_holm):
        side = "above" if gap.difference > 0 else "below"
        few = "one user allows" if gap.users < 2 else f"{gap.users} users allow"
        return f"{name} is {size} {side} {other} ({few} no test)"
    return f"{name} and {other} cannot be told apart ({change}, {p_equals(gap.p_holm)})"


def format_sentence(gap: Gap, primary: Metric) -> str:
    """Return which part of a difference is the form of the answers; empty if hardly any is."""
    small = FORMAT_POINTS if primary.unit == "%" else 0.0
    least = max(small, FORMAT_SHARE * abs(gap.difference))
    if is_missing(gap.of_format) or abs(gap.of_format) < least or gap.of_format == 0:
        return ""
    name, other, unit = gap.experiment, gap.other, _unit(primary)
    start = (
        f"Answer format: of the {primary.difference(gap.difference)} {unit} between {name} and {other}, "
        f"{primary.difference(gap.of_format)} come from samples of which only one answer could be read ({name} parsed "
        f"{percent(gap.parse_rate)} %, {other} {percent(gap.other_parse_rate)} %)"
    )
    if not gap.both_parsed_samples:
        return f"{start}; no sample has a readable answer of both."
    both = (gap.both_parsed, gap.other_both_parsed)
    own, others = (f"{primary.text(value)} {primary.unit}".rstrip() for value in both)
    count = f"{gap.both_parsed_samples:,.0f}"
    return f"{start}; on the {count} samples that both parsed, {name} has {own} and {other} {others}."


def _unit(primary: Metric) -> str:
    return "points" if primary.unit == "%" else f"{primary.unit} in {primary.title}".lstrip()

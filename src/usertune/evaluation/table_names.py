"""The files in ``tables/``, which the comparison writes, but for those of costs, which the report writes."""

SUMMARY, SUMMARY_MD, SUMMARY_TEX = "summary.csv", "summary.md", "summary.tex"
DIFFERENCES, USERS, SAMPLES = "differences.csv", "users.csv", "samples.csv"
DIFFERENCES_MD, DIFFERENCES_TEX = "differences.md", "differences.tex"
BY_GROUP, BY_GROUP_MD, BY_GROUP_TEX = "by_group.csv", "by_group.md", "by_group.tex"
USERS_MD, USERS_TEX, METRICS_TEX = "users.md", "users.tex", "metrics.tex"
# Only in studies that have groups, a matrix of adapters, or a hypothesis with comparisons.
GROUPS, GROUPS_MD, HYPOTHESIS = "groups.csv", "groups.md", "hypothesis.csv"
MATRIX, MATRIX_MD = "adapter_matrix.csv", "adapter_matrix.md"
# With times, which change when work is repeated.
COST, COST_MD, COST_TEX = "cost.csv", "cost.md", "cost.tex"
COSTS = (COST, COST_MD, COST_TEX)
MANIFEST = "manifest.json"
PAPERS = (METRICS_TEX, BY_GROUP_MD, BY_GROUP_TEX, DIFFERENCES_MD, DIFFERENCES_TEX, USERS_MD, USERS_TEX)
TABLES = (SUMMARY, SUMMARY_MD, SUMMARY_TEX, DIFFERENCES, USERS, SAMPLES, BY_GROUP, *PAPERS)
# For people, in descriptions of the results.
DESCRIPTIONS = {
    SUMMARY: "One row for each experiment: its metrics, the interval of the primary one, answers parsed",
    SUMMARY_MD: "The summary, rounded, as Markdown",
    SUMMARY_TEX: "The summary, rounded, as LaTeX",
    DIFFERENCES: "One row for each pair of experiments: difference in the primary metric and its interval",
    BY_GROUP: "The primary metric of each experiment by app, episode length, screen region, image size",
    BY_GROUP_MD: "The same, rounded, as Markdown",
    BY_GROUP_TEX: "The same, rounded, as LaTeX",
    METRICS_TEX: "All metrics of each experiment, rounded, as LaTeX",
    DIFFERENCES_MD: "The comparisons that the study states, rounded, as Markdown",
    DIFFERENCES_TEX: "The comparisons that the study states, rounded, as LaTeX",
    USERS_MD: "The primary metric of each user in each experiment, rounded, as Markdown",
    USERS_TEX: "The primary metric of each user in each experiment, rounded, as LaTeX",
    USERS: "One row for each experiment and user: what was measured on that user's samples",
    SAMPLES: "One row for each experiment and sample: answer, target and what was measured",
    GROUPS: "One row for each setting of a group of experiments, over its seeds",
    GROUPS_MD: "The settings of groups, rounded, as Markdown",
    HYPOTHESIS: "One row for each comparison of the hypothesis",
    MATRIX: "One row for each matrix and test user: the primary metric by the adapters of each test user",
    MATRIX_MD: "The matrix of adapters, rounded, as Markdown",
    COST: "One row for each experiment: hours, GPU hours, speed, memory, tokens, and what it builds on",
    COST_MD: "The costs, rounded, as Markdown",
    COST_TEX: "The costs, rounded, as LaTeX",
}

# Beginning of the columns with what the data say about a sample.
ABOUT = "about."

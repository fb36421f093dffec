"""The files that the comparison writes into ``tables/``."""

SUMMARY, SUMMARY_MD, SUMMARY_TEX = "summary.csv", "summary.md", "summary.tex"
DIFFERENCES, USERS, SAMPLES = "differences.csv", "users.csv", "samples.csv"
DIFFERENCES_MD, DIFFERENCES_TEX = "differences.md", "differences.tex"
BY_GROUP, BY_GROUP_MD, BY_GROUP_TEX = "by_group.csv", "by_group.md", "by_group.tex"
USERS_MD, USERS_TEX, METRICS_TEX = "users.md", "users.tex", "metrics.tex"
# Only in studies that have groups, a matrix of adapters, or a hypothesis with comparisons.
GROUPS, GROUPS_MD, HYPOTHESIS = "groups.csv", "groups.md", "hypothesis.csv"
MATRIX, MATRIX_MD = "adapter_matrix.csv", "adapter_matrix.md"
MANIFEST = "manifest.json"
PAPERS = (METRICS_TEX, BY_GROUP_MD, BY_GROUP_TEX, DIFFERENCES_MD, DIFFERENCES_TEX, USERS_MD, USERS_TEX)
TABLES = (SUMMARY, SUMMARY_MD, SUMMARY_TEX, DIFFERENCES, USERS, SAMPLES, BY_GROUP, *PAPERS)

"""The files that the comparison writes into ``tables/``."""

SUMMARY, SUMMARY_MD, SUMMARY_TEX = "summary.csv", "summary.md", "summary.tex"
DIFFERENCES, USERS, SAMPLES = "differences.csv", "users.csv", "samples.csv"
# Only in studies that have groups, a matrix of adapters, or a hypothesis with comparisons.
GROUPS, GROUPS_MD, HYPOTHESIS = "groups.csv", "groups.md", "hypothesis.csv"
MATRIX, MATRIX_MD = "adapter_matrix.csv", "adapter_matrix.md"
MANIFEST = "manifest.json"
TABLES = (SUMMARY, SUMMARY_MD, SUMMARY_TEX, DIFFERENCES, USERS, SAMPLES)

"""The names of the steps, in the order in which they need each other.

Recipes, manifests, records and rules carry them, and no experiment may have one. What a step makes, and from what, is
in `usertune.pipeline.steps`.
"""

PREPARE = "prepare"
BASE_MODEL = "base_model"
TRAIN = "train"
PREDICT = "predict"
SCORE = "score"
COMPARE = "compare"
FIGURE = "figure"
AUDIT = "audit"
REPORT = "report"

# Rules that make nothing themselves: for everything, and for all users' data alone.
ALL, CHECK = "all", "check"
# The rule of predictions of which the store has every answer.
PREDICT_FROM_STORE = "predict_from_store"

STEP_NAMES = (PREPARE, BASE_MODEL, TRAIN, PREDICT, SCORE, COMPARE, FIGURE, AUDIT, REPORT)

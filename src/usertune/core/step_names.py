"""The names of the steps, in the order in which they run.

Recipes, manifests, records and rules use them, and experiments must not. `usertune.pipeline.steps` defines the inputs
and results of each step.
"""

PREPARE = "prepare"
LEAKAGE = "leakage"
BASE_MODEL = "base_model"
TRAIN = "train"
TRAIN_FOLDS = "train_folds"
OTHER_WEIGHTS = "other_weights"
PREDICT = "predict"
SCORE = "score"
COMPARE = "compare"
FIGURE = "figure"
AUDIT = "audit"
REPORT = "report"

# Rules without an output: for everything, and for only the data of all users.
ALL, CHECK = "all", "check"
# The rule for predictions if the store has every answer.
PREDICT_FROM_STORE = "predict_from_store"
# The rule for predictions that were made elsewhere.
READ_ANSWERS = "read_answers"
# The rule for predictions without a model, and the key of its code version.
PREDICT_PRIOR, PRIOR = "predict_prior", "prior"

STEP_NAMES = (
    PREPARE,
    LEAKAGE,
    BASE_MODEL,
    TRAIN,
    TRAIN_FOLDS,
    OTHER_WEIGHTS,
    PREDICT,
    SCORE,
    COMPARE,
    FIGURE,
    AUDIT,
    REPORT,
)

"""A few raw samples of data that are not prepared yet: their texts, and the sizes in the headers of their images.

Imports an image library, so the planning of jobs does without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from usertune.checks.estimates.samples import Unprepared
from usertune.core.errors import UserError
from usertune.data.from_headers import FromHeaders
from usertune.data.reader import BadSampleError, Reader
from usertune.data.readers.catalogue import get_reader
from usertune.data.recipe import PrepareRecipe
from usertune.data.samples import Sample
from usertune.pipeline.recipes import Recipes
from usertune.study.schema.study import Study
from usertune.tasks.truth import NotAskedError

MOST_SAMPLES = 300
# Raw samples that are read for one that can be used.
READ = 10


def look_at_raw_samples(study: Study, users: Sequence[str]) -> Unprepared:
    """Return at most `MOST_SAMPLES` samples, evenly over the users, as the prepare step would write them.

    The first good samples of each user are taken; of more than `MOST_SAMPLES` users, every second, third and so on.

    Args:
        study: the study.
        users: users whose data are not prepared; at least one.
    """
    recipe, root = PrepareRecipe.parse(Recipes(study).prepare()), Path(study.dataset.root)
    reader = get_reader(recipe.format, root, recipe.options)
    chosen = users[:: -(-len(users) // MOST_SAMPLES)]
    share = MOST_SAMPLES // len(chosen)
    bad: Counter[str] = Counter()
    samples = [
        sample
        for user in chosen
        for sample in islice(_good_samples(reader, FromHeaders(recipe, root, user), READ * share, bad), share)
    ]
    return Unprepared(sum(reader.count(user) for user in users), tuple(samples), bad.total())


def _good_samples(reader: Reader, canonical: FromHeaders, most: int, bad: Counter[str]) -> Iterator[Sample]:
    """Yield a user's samples that can be used, of the first ones, and count the bad ones."""
    user = canonical.user
    try:
        for location, raw in islice(reader.read(user), most):
            try:
                if isinstance(raw, BadSampleError):
                    raise raw
                yield canonical.sample(raw, location.line)
            except NotAskedError:
                continue
            except BadSampleError:
                bad[user] += 1
    except UserError:
        # A file that cannot be read; usertune check data reports it.
        bad[user] += 1

"""The items of steps: of which experiments, users and figures a study has results, and whose results these use."""

from __future__ import annotations

from collections.abc import Iterator

from usertune.pipeline.figures_of_study import figures_of
from usertune.pipeline.step import Item
from usertune.study.schema.study import Study


def once(_study: Study) -> Iterator[Item]:
    """Yield the only result of a step."""
    yield Item()


def each_user(study: Study) -> Iterator[Item]:
    """Yield each user of the study."""
    for user in study.all_users:
        yield Item(users=(user,))


def each_trained_experiment(study: Study) -> Iterator[Item]:
    """Yield each experiment that is trained on the training users."""
    for name, experiment in study.experiments.items():
        if experiment.trained:
            yield Item(name)


def each_training_on_folds(study: Study) -> Iterator[Item]:
    """Yield each training on folds: an experiment and a test user or, with scope pooled, all of them."""
    for name, experiment in study.experiments.items():
        if not experiment.trained_on_folds:
            continue
        if experiment.scope == "pooled":
            yield Item(name, study.users.test)
        else:
            yield from (Item(name, (user,)) for user in study.users.test)


def each_experiment_with_other_weights(study: Study) -> Iterator[Item]:
    """Yield each experiment with weights that are not trained for it."""
    for name, experiment in study.experiments.items():
        if experiment.uses_other_weights:
            yield Item(name)


def each_batch_of_answered_users(study: Study) -> Iterator[Item]:
    """Yield each experiment and batch of users whom it answers."""
    for name in study.experiments:
        for users in study.batches_of(name):
            yield Item(name, users)


def each_answered_user(study: Study) -> Iterator[Item]:
    """Yield each experiment and user whom it answers."""
    for name in study.experiments:
        for user in study.answered_users(name):
            yield Item(name, (user,))


def each_figure(study: Study) -> Iterator[Item]:
    """Yield each figure of the study."""
    for name in figures_of(study):
        yield Item(figure=name)


def start_of(study: Study, item: Item) -> Iterator[Item]:
    """Yield the experiment whose weights the training of another starts from, if any."""
    if item.experiment is not None and (start := study.start_of(item.experiment)):
        yield Item(start)


def weights_on_folds(study: Study, item: Item) -> Iterator[Item]:
    """Yield the trainings on folds whose weights answer the users of an item."""
    if item.experiment is None:
        return
    owners = study.adapter_owners(item.experiment)
    if not owners:
        yield item
    for user in item.users if owners else ():
        yield Item(study.experiments[item.experiment].adapters_of, (owners[user],))


def checkpoint_of(study: Study, item: Item) -> Iterator[Item]:
    """Yield the experiment whose training kept the weights of another, if any."""
    kept = study.experiments[str(item.experiment)].checkpoint
    if kept is not None:
        yield Item(kept.of)


def validation_scores(study: Study, _item: Item) -> Iterator[Item]:
    """Yield the experiments and validation users whose scores choose a setting."""
    if study.chosen_by_accuracy:
        yield from (Item(name, study.users.validation) for name in study.chosen_by_accuracy)


def if_generated(study: Study, item: Item) -> Iterator[Item]:
    """Yield the item itself if a model generates its answers."""
    if study.experiments[str(item.experiment)].generated:
        yield item


def users_of_prior(study: Study, item: Item) -> Iterator[Item]:
    """Yield the training users whom the prior of an experiment is made from, if it is made from them."""
    prior = study.experiments[str(item.experiment)].prior
    if prior is not None and prior.of == "train_users":
        yield Item(users=study.users.train)


def users_of_context(study: Study, item: Item) -> Iterator[Item]:
    """Yield the other users whose samples are in the prompts of an item's users, if any are."""
    context = study.experiments[str(item.experiment)].context
    if context is not None and context.of == "other_user":
        yield from (Item(users=(study.next_user(user),)) for user in item.users)

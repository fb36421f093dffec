"""Reader for Android in the Wild (AITW) in the JSON of SeeClick: episodes of screenshots and what was done on each.

The file is an object of subsets, each a list of episodes, each a list of steps (``touch`` and ``lift`` are x and y)::

    {"general": [[{"img_filename": "general/1_0", "goal": "open the mail", "action_type_id": 4,
                   "action_type_text": "click", "touch": [0.2, 0.3], "lift": [0.2, 0.3], "type_text": ""}, ...]]}

Images are ``img_filename`` and ``.png``. A click is at the middle of touch and lift, as in SeeClick. The direction of a
scroll is that of the finger, from touch to lift, so that it does not depend on what "scroll down" means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from usertune.core.errors import shown
from usertune.data.entry_reader import EntryReader, Place, numbers
from usertune.data.reader import BadSampleError, RawSample
from usertune.data.turns import checked_name, checked_text, question
from usertune.tasks.truth import CLICK, FINISH, PRESS, SCROLL, TYPE, Truth

FRAME = "relative_1"
BARE = True

# https://github.com/google-research/google-research/blob/master/android_in_the_wild/action_type.py
TYPED, TOUCHED, IMPOSSIBLE = 3, 4, 11
KEYS = {5: "back", 6: "home", 7: "enter"}
ENDS = {10: None, IMPOSSIBLE: "impossible"}


class AitwReader(EntryReader):
    """Reads episodes of AITW, see `usertune.data.reader.Reader`."""

    PARTS: ClassVar[bool] = True

    def image_names(self, entry: Mapping[str, Any]) -> Iterable[Any]:
        """Return the screenshot."""
        name = entry.get("img_filename")
        return [f"{name}.png" if isinstance(name, str) and name else name]

    def sample(self, entry: Mapping[str, Any], place: Place) -> RawSample:
        """Return one step; its episode is the list that holds it."""
        (image,) = self.image_names(entry)
        image = checked_text(image, "img_filename")
        file = place.name.rpartition("-")[0]
        return RawSample(
            checked_name(entry, "id", place.name),
            checked_name(entry, "ep_id", f"{file}-{place.part or 'list'}-{place.group}"),
            place.position,
            question(entry.get("goal"), "goal"),
            [self.in_images(image)],
            truth=_truth(entry),
            about={**self.about(entry), **({"subset": place.part} if place.part else {})},
        )


def _truth(entry: Mapping[str, Any]) -> Truth:
    kind = entry.get("action_type_id")
    if isinstance(kind, bool) or not isinstance(kind, int):
        raise BadSampleError("action_type_id", f"a number is needed, found {shown(kind)}")
    if kind == TYPED:
        return Truth(TYPE, text=checked_text(entry.get("type_text"), "type_text"))
    if kind in KEYS:
        return Truth(PRESS, key=KEYS[kind])
    if kind in ENDS:
        return Truth(FINISH, key=ENDS[kind])
    if kind != TOUCHED:
        raise BadSampleError("action_type_id", f"{kind} is not known; the numbers are 3 to 7, 10 and 11")
    (x, y), (to_x, to_y) = (numbers(entry.get(key), key, [2]) for key in ("touch", "lift"))
    if entry.get("action_type_text") == "click":
        return Truth(CLICK, point=((x + to_x) / 2, (y + to_y) / 2))
    across, down = to_x - x, to_y - y
    sideways, upright = "right" if across > 0 else "left", "down" if down > 0 else "up"
    direction = sideways if abs(across) > abs(down) else upright
    return Truth(SCROLL, point=(x, y), direction=direction)

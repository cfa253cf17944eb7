# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Classes of two data sets that people can tell only in time, and others that a frame gives away.

From Sevilla-Lara et al., "Only Time Can Tell: Discovering Temporal Data for Temporal Modeling" (WACV 2021): ids in the
alphabetical list of Kinetics-400, and in the label file of Something-Something v1.
"""

from typing import NamedTuple


class TemporalClasses(NamedTuple):
    """Ids of classes.

    Args:
        num_classes: Of the data set.
        temporal: Not recognised once the frames are shuffled.
        static: Recognised all the same.
        names: Of the temporal ones, where they are known: they show whether a list is in the order of the ids.
    """

    num_classes: int
    temporal: tuple[int, ...]
    static: tuple[int, ...]
    names: tuple[str, ...] = ()


TEMPORAL_CLASSES = {
    "kinetics-400": TemporalClasses(
        400,
        temporal=(
            *(30, 34, 41, 45, 63, 75, 105, 147, 148, 152, 173, 177, 206, 222, 228, 230),
            *(235, 277, 295, 301, 302, 307, 308, 309, 310, 322, 325, 349, 357, 358, 376, 395),
        ),
        static=(
            *(18, 20, 23, 26, 53, 57, 80, 88, 91, 95, 99, 113, 126, 139, 181, 182),
            *(183, 186, 200, 201, 210, 218, 226, 227, 255, 268, 298, 354, 366, 388, 397, 398),
        ),
        names=(
            "bouncing on trampoline",
            "breakdancing",
            "busking",
            "cartwheeling",
            "cleaning shoes",
            "country line dancing",
            "drop kicking",
            "gymnastics tumbling",
            "hammer throw",
            "high kick",
            "jumpstyle dancing",
            "kitesurfing",
            "parasailing",
            "playing cards",
            "playing cymbals",
            "playing drums",
            "playing ice hockey",
            "robot dancing",
            "shining shoes",
            "shuffling cards",
            "side kick",
            "ski jumping",
            "skiing (not slalom or crosscountry)",
            "skiing crosscountry",
            "skiing slalom",
            "snowboarding",
            "somersaulting",
            "tap dancing",
            "throwing ball",
            "throwing discus",
            "vault",
            "wrestling",
        ),
    ),
    # Class 63 is in both lists, as in the source; a score leaves it out
    "something-something-v1": TemporalClasses(
        174,
        temporal=(1, 6, 10, 12, 26, 34, 39, 45, 47, 56, 60, 63, 67, 70, 77, 81, 95, 150),
        static=(9, 15, 42, 50, 58, 61, 63, 71, 78, 90, 93, 106, 109, 114, 121, 130, 138, 165),
    ),
}

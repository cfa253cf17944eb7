# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Labelled videos and what is made of them: data sets that name files and classes, clips for training and evaluation,
augmentation, and the list of videos that cannot be read. Decoding itself is in video_reading.py, which travels with
saved models; nothing here knows a model.
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

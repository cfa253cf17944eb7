# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training: the Trainer of the recipes and its arguments, what both training scripts share, and what a run needs to be
killed and resumed, spread over processes, pushed to the Hub or reduced to LoRA.
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

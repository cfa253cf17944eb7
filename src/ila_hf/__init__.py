# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ILA (Implicit Learnable Alignment, ICCV 2023) for Hugging Face transformers.

Importing the package registers ILA with the auto classes and pipelines of transformers. Neither these nor the parts of
the package are imported before they are used.

The files beside this one are the code that travels with every saved model; what does not is in folders.
"""

import lazy_loader

from .registration import register


__version__ = "0.1.0"
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return __all__


register()

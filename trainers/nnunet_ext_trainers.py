"""The door through which nnU-Net finds our trainers; the list behind it is ``nnunet_ext/catalogue.py``.

nnU-Net imports this file, asks ``hasattr(module, "nnUNetTrainerPnPNet")`` and forgets the module again. Names are
resolved only when asked for, so a missing optional dependency of one method does not hide the others.
"""

from nnunet_ext.catalogue import __dir__, __getattr__

__all__ = ["__dir__", "__getattr__"]

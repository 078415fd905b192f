"""Drop-in trainers for stock nnU-Net v2.

Importing this package imports neither torch nor nnU-Net. Python users call :func:`register` once; shell users type
``export nnUNet_extTrainer="$(nnunet-ext path)"``.
"""

from nnunet_ext.discovery import discovery_folder, register
from nnunet_ext.version import __version__

__all__ = ["__version__", "discovery_folder", "register"]

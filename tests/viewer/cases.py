"""An oblique, anisotropic image in a file, a session on it, and the server in front of that, for tests."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.viewer.access import AccessMiddleware
from nnunet_ext.viewer.app import create_app
from nnunet_ext.viewer.cases import single_case
from nnunet_ext.viewer.desk import Desk
from nnunet_ext.viewer.serve import names_of
from tests.interactive.sessions import SPACING, image, model

SHAPE = (6, 16, 20)
TOKEN = "a-token"
HOST = "http://127.0.0.1:8123"
OBLIQUE = (0.9578, 0.1688, -0.2325, -0.1688, -0.3256, -0.9303, -0.2327, 0.9303, -0.2834)
"""Rows of a coronal acquisition: y of the file runs down, its slices back to front."""


def write_image(folder, array=None, direction=OBLIQUE, name="case_0000.nii.gz"):
    """A file of nnU-Net's; array z, y, x."""
    made = sitk.GetImageFromArray(image(SHAPE)[0] if array is None else array)
    made.SetSpacing(SPACING[::-1])
    made.SetOrigin((12.0, -40.0, 7.5))
    u, _, v = np.linalg.svd(np.reshape(direction, (3, 3)))
    made.SetDirection((u @ v).ravel().tolist())
    file = folder / name
    sitk.WriteImage(made, str(file))
    return file


def fresh_session(**options):
    made = S2VSession("cpu", **options)
    made.initialize_from_predictor(model(spacing=tuple(SPACING[1:])))
    return made


def session_on(file, **options):
    made = fresh_session(**options)
    made.set_image_from_files([file])
    return made


def guarded(app):
    return AccessMiddleware(app, hosts=names_of("127.0.0.1"), token=TOKEN, port=8123, limit=2**16)


def served(file, out=None, changed=lambda prompts: None):
    """The app with its access control, and the worker."""
    case = single_case([file], out)
    desk = Desk(fresh_session, [case], case, changed=changed)
    return guarded(create_app(desk)), desk.worker

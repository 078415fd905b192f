"""Desk: the cases that a page can open, the open case, and the thread that uses its session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.errors import InputError
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.viewer.autosave import Autosave
from nnunet_ext.viewer.cases import CaseFiles, Ledger
from nnunet_ext.viewer.display import Display
from nnunet_ext.viewer.worker import SessionWorker


class Desk:
    """Opens one case at a time.

    Args:
        fresh: function that makes a session with the model and without an image.
        cases: at least one case.
        first: case to open first.
        ledger: list of the accepted cases; None for a single case, which is never accepted.
        changed: called with the prompts after every change, in the worker's thread.

    Attributes:
        cases: the cases.
        case: the open case.
        display: turns its image for the screen.
        worker: the thread that uses its session.

    Raises:
        InputError: the first case cannot be read, its saved session belongs to another image or model, or the page
            cannot show the value of a label.
    """

    def __init__(
        self,
        fresh: Callable[[], S2VSession],
        cases: Sequence[CaseFiles],
        first: CaseFiles,
        ledger: Ledger | None = None,
        changed: Callable[[list[dict[str, Any]]], None] = lambda prompts: None,
    ) -> None:
        self._fresh = fresh
        self.cases = tuple(cases)
        self.ledger = ledger
        session = fresh()
        if (highest := max(session.labels.values())) > 255:
            raise InputError(f"The page shows labels up to 255, but the model has {highest}.")
        self.worker = SessionWorker(changed)
        self._use(first, session)

    async def open(self, name: str) -> None:
        """Open another case; if that fails, the open case stays open.

        Raises:
            InputError: there is no such case; otherwise as for the class.
        """
        found = next((case for case in self.cases if case.name == name), None)
        if found is None:
            raise InputError(f"There is no case {name[:80]!r}.")
        await self.worker.do(lambda: self._use(found, self._fresh()))
        self.worker.open()

    async def accept(self, accepted: bool, check: Callable[[], None] = lambda: None) -> None:
        """Save the label map of the open case and note that it is accepted; or note that it is not.

        Args:
            accepted: whether the case is accepted.
            check: called first, in the worker's thread; it may raise any exception.

        Raises:
            InputError: there is no list of cases, there is no result yet, or the file cannot be written.
        """

        def work() -> None:
            check()
            ledger, case = self.ledger, self.case
            if ledger is None or case.out is None:
                raise InputError("One image is open, not a folder; save the segmentation instead.")
            if accepted:
                self.worker.session.write(case.out)
            ledger.accept(case.name, accepted)

        await self.worker.do(work)

    def listed(self) -> list[dict[str, str]]:
        """Name and status of every case; empty for a single case."""
        ledger = self.ledger
        return [{"name": case.name, "status": ledger.status(case)} for case in self.cases] if ledger else []

    def _use(self, case: CaseFiles, session: S2VSession) -> None:
        session.set_image_from_files(case.images)
        if case.out is not None:
            session.case.require_writable(case.out)
        display = Display.of(Geometry.from_properties(session.case.properties), session.case.shape)
        autosave = None if case.session is None else Autosave(case.session)

        def touched() -> None:
            if self.ledger is not None:
                self.ledger.accept(case.name, False)

        self.worker.use(session, autosave, touched)
        self.case, self.display = case, display

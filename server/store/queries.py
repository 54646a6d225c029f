"""All read-only queries of the store; each subject has its reader in ``server.store.readers``."""

from __future__ import annotations

from server.store.readers.candidates import CandidateReader
from server.store.readers.cascades import CascadeReader
from server.store.readers.devices import DeviceReader
from server.store.readers.named_data import NamedDataReader
from server.store.readers.predictors import PredictorReader
from server.store.readers.searches import SearchReader
from server.store.readers.service import ServiceReader
from server.store.readers.submissions import SubmissionReader
from server.store.readers.user_models import UserModelReader


class Queries(
    SearchReader,
    CascadeReader,
    CandidateReader,
    DeviceReader,
    NamedDataReader,
    PredictorReader,
    ServiceReader,
    SubmissionReader,
    UserModelReader,
):
    """Reads over one database, of all subjects."""

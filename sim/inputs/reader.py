"""The reader of what users write: a binder that also knows the short forms."""

from __future__ import annotations

from sim.inputs.bind import Binder
from sim.inputs.forms import FORMS


class Reader(Binder):
    """A `Binder` of YAML as people write it, ``method: {lora: {rank: 16}}`` included."""

    forms = FORMS

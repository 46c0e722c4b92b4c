"""What monoscope exchanges with other libraries: SAEs checked on a store, atlases, SAEBench."""

from monoscope.interop.exchange import export, import_sae
from monoscope.interop.saebench import saebench

__all__ = ["export", "import_sae", "saebench"]

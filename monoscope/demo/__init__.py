"""The demo: the whole job, from a language model to a feature that changes what it says."""

from monoscope.demo.stages import run_demo

__all__ = ["run_demo"]

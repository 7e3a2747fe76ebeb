"""Find which past a time-series transformer looks at, and whether it matters.

Public names are listed in the stub beside this file and loaded on first use.
"""

try:
    import lazy_loader
except ImportError:
    pass  # `laglens.attention.capture` also runs where a model brings no more than torch and numpy
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

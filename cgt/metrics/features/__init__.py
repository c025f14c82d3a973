"""Feature extractors: from uint8 pictures to the numbers that metrics compare.

One file an extractor, and its name is what people type. Such a module defines `load(source)`, which gives a
`cgt.metrics.features.base.FeatureExtractor` read from `source`: a file or a folder; None where the user named
none; the word `download` for weights to fetch. A folder that holds a trained extractor has a `config.json`
with the extractor's name under "extractor".
"""

from cgt.metrics.features.base import FeatureExtractor, Features, load_extractor

__all__ = ["FeatureExtractor", "Features", "load_extractor"]

INFRASTRUCTURE = frozenset({"base", "cnn_training", "inception", "resize", "weights"})

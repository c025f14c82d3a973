"""Measuring generated pictures against real ones; knows nothing of training.

One file a metric, and its name is what people type. Such a module defines

* `SCORES`: the numbers it gives, as a mapping from their names to what is better, "lower", "higher" or
  "neither";
* `build(extractor, classes)`: a fresh `cgt.metrics.base.FeatureMetric` over the features of `extractor` for
  pictures of `classes`; a UserError where the extractor does not suit.

Beside the metric stands a pure function from features to score. Extractors are in `cgt.metrics.features`.
"""

INFRASTRUCTURE = frozenset(
    {
        "base",
        "feature_cache",
        "features",
        "gaussian",
        "pairs",
        "rounding",
        "settings",
        "statistics",
        "subjects",
        "suite",
    }
)

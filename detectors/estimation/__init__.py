"""How good are the predictions likely to be, before any label has come? The maths of `performance_estimate` and `estimate_gap`.

`confidence_based` for classes, `direct_loss` for numbers. Values are those of NannyML 0.13.1 where the method is the same.
"""

"""The LR policy evaluator (section IV): range test, recommendation and tuning, each of them a module."""

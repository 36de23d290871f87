"""The LR policy evaluator (section IV): range test, recommendation and tuning."""

"""LR policy ranking: pure functions from trials to ranked trials."""


def by_top1(trials):
    """Trials with the highest Top-1 first, on a tie the one that reached it in fewer iterations; those without rows last."""
    return sorted(trials, key=lambda trial: (-trial.best.top1, trial.best.iteration) if trial.best else (1, 0))

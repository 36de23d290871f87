"""Pictures of policies and trials."""

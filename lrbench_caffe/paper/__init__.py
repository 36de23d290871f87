"""The paper's tables and figures: trained, and compared with the published numbers."""

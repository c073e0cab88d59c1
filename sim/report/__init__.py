"""Results as terminal text, Chrome trace and pages."""

"""Files of trainers and launchers, read as jobs: one module a tool."""

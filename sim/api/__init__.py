"""The face: one function a verb, each of which returns a typed document.

Arguments are named as the options of the command line. A machine or a job is a path, a catalogue
name, a mapping of the YAML's keys, or a spec; `overrides` is ``key=value`` texts as for ``--set``,
or a mapping. Every document has a `schema`, `to_dict`, `to_json` and `to_frame`. Every function
raises `InputError` for arguments that are none of what it takes, and for all faults of its inputs.

`sim` hands the functions out by name; nothing below imports this package, and its functions import
what they call when they are called.
"""

"""Fine-tune one vision-language model across many users and evaluate it on each of them.

The rooms, from the ground floor up; a room imports only from floors below it:

1. ``errors``, ``files``, ``fingerprint``, ``users``, ``study``, ``recipes``, ``store``, ``logs``, ``gpu``
2. ``data``, ``tasks``
3. ``model``, ``collate``, ``train``, ``predict``
4. ``score``, ``compare``, ``figures``, ``report``

Only floor 3 imports torch, and only ``figures`` imports matplotlib.
``demo`` makes the offline demo's screens and its tiny base model.
"""

__version__ = "0.1.0"

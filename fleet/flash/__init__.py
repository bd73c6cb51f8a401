"""From a bare box to a member of the fleet over SSH, and back: ``asdic flash`` and ``unflash``."""

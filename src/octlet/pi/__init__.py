"""What a Raspberry Pi installs: one package made on any workstation, and the way there over ssh."""

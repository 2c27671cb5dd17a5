"""How the bundled tiny models were trained."""

"""The EVM side: deploy and verify contracts, read and write a chain. Imported only where it is used."""

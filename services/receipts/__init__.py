"""What nodes sign of paid requests, as the network checks and keeps it for the payer."""

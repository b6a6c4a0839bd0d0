"""What models outside the laboratory cost and give: docs/deployment.md has the tables."""

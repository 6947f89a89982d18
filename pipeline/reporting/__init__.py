"""What the report says: tables, the statistics that they may claim, the words around them, the page."""

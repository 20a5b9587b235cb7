"""The paper's table: full noise against late start, at equal evaluations; and its preset of one table."""

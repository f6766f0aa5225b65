"""PURE folds from events to rows; knows no connection and no clock."""

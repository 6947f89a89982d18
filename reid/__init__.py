"""One trial of person re-identification: data, methods, training and evaluation, free of any orchestration."""

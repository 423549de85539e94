"""Fine-tuning against other ways of learning a subject: what `make numbers-headline` prints, draws and writes."""

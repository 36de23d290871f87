ALTER TABLE trial ADD COLUMN blas text;
ALTER TABLE trial ADD COLUMN threads integer CONSTRAINT trial_threads_positive CHECK (threads > 0);
COMMENT ON COLUMN trial.blas IS 'library, version and kernels, on which the last digits of a training depend';
COMMENT ON COLUMN trial.threads IS 'how many of them BLAS used';

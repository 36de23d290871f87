-- Settings that have Caffe's default, and two more that change nothing, do not distinguish results.

CREATE OR REPLACE FUNCTION learning(solver jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
    $$ SELECT solver
              - ARRAY['display', 'snapshot', 'snapshot_after_train', 'snapshot_format', 'debug_info', 'solver_mode', 'device_id',
                      'average_loss', 'test_initialization', 'test_compute_loss', 'snapshot_diff', 'layer_wise_reduce']
              - ARRAY(SELECT key FROM jsonb_each('{"type": "SGD", "iter_size": 1, "momentum": 0, "weight_decay": 0,
                          "regularization_type": "L2", "clip_gradients": -1, "momentum2": 0.999, "rms_decay": 0.99, "delta": 1e-8}')
                      AS caffe WHERE solver->caffe.key = caffe.value) $$;
COMMENT ON FUNCTION learning IS
    'the settings of a solver without those that do not affect what is learnt, and without those that have Caffe''s default';

-- What was counted before is computed again.
DELETE FROM standing;
INSERT INTO standing (dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations)
    SELECT dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations FROM standing_of_trials;

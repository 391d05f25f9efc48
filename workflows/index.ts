/** What the worker registers: every export here is a workflow type. */
export { MovePartitions } from './move-partitions.ts';
export { ScaleCluster } from './scale-cluster.ts';
export { VerifyMoves } from './verify-moves.ts';

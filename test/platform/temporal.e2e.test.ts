import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { expect, test } from 'vitest';
import { startTemporal } from '../../dev/embedded/temporal.ts';

test('the embedded Temporal keeps its workflows over a kill, at the same address', async () => {
  const dataFolder = mkdtempSync(path.join(tmpdir(), 'ringmaster-temporal-'));
  const temporal = await startTemporal({ dataFolder });
  try {
    const start = async () => {
      const connection = await Connection.connect({ address: temporal.address });
      return { connection, client: new Client({ connection, namespace: temporal.namespace }) };
    };
    const before = await start();
    await before.client.workflow.start('Nobody', { workflowId: 'kept', taskQueue: 'nobody' });
    await before.connection.close();
    temporal.signal('SIGKILL');
    await temporal.exited;
    await temporal.restart();
    const after = await start();
    expect((await after.client.workflow.getHandle('kept').describe()).status.name).toBe('RUNNING');
    await after.connection.close();
  } finally {
    await temporal.stop();
    rmSync(dataFolder, { recursive: true, force: true });
  }
});

// Usage: node download-temporal.mjs FOLDER VERSION. Has the Temporal SDK download its dev server into FOLDER, and starts it once to see that it runs.
import { TestWorkflowEnvironment } from '@temporalio/testing';

const [downloadDir, version] = process.argv.slice(2);
if (!downloadDir || !version) throw new Error('FOLDER and VERSION are needed');
try {
  const env = await TestWorkflowEnvironment.createLocal({
    server: { executable: { type: 'cached-download', downloadDir, version } },
  });
  await env.teardown();
} catch (err) {
  process.stderr.write(`${err instanceof Error ? err.message.split('\n')[0] : String(err)}\n`);
  process.exit(1);
}
process.exit(0);

/**
 * Histories as files. Not the SDK's historyToJSON: it compares classes of protobufjs, of which an installation may hold several copies (1.24.0: "type must be
 * a Type"). This is protobuf's plain-object form, readable all the same: enums by name, bytes as base64.
 */
import { readFileSync } from 'node:fs';
import proto from '@temporalio/proto';

const { History } = proto.temporal.api.history.v1;
export type History = proto.temporal.api.history.v1.IHistory;

export const readHistory = (file: string): History => History.fromObject(JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>);

/** Who ran it is that machine's business, and replay does not look. */
export function historyText(history: History): string {
  const plain = History.toObject(History.fromObject(history), { enums: String, longs: String, bytes: String });
  return `${JSON.stringify(plain, null, 1)
    .replaceAll(/"identity": "[^"]*"/g, '"identity": "worker@recording"')
    .replaceAll(/"stackTrace": "[^"]*(\\.[^"]*)*"/g, '"stackTrace": ""')}\n`;
}

/** The requests of the bench of the router: one event each, about 0.4 kB with their head, of so many users. */
const USERS = 512;

export function benchRequests(port: number): string[] {
  return Array.from({ length: USERS }, (_, n) => {
    const user = `${n}`.padStart(6, '0');
    const body = JSON.stringify({
      userId: `user-${user}`,
      messageId: `0b8f3e1a-5f0e-4a57-9a8e-${user}a1b2c3`,
      event: 'Product Viewed',
      properties: { sku: 'A-10', price: 12.5, currency: 'EUR' },
      sentAt: '2026-01-01T00:00:00.000Z',
    });
    return [
      'POST /v1/track HTTP/1.1',
      `Host: 127.0.0.1:${port}`,
      'Content-Type: application/json',
      'Authorization: Basic d3JpdGUta2V5Og==',
      `AnonymousId: anonymous-${user}`,
      `Content-Length: ${Buffer.byteLength(body)}`,
      '',
      body,
    ].join('\r\n');
  });
}

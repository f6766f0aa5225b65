export function CoalitionIcon({ className }: { className?: string }) {
  return (
    <svg
      aria-label="Coalition"
      className={className}
      fill="none"
      role="img"
      stroke="currentColor"
      strokeWidth="2"
      viewBox="0 0 24 24"
      xmlns="http://www.w3.org/2000/svg"
    >
      <title>Coalition</title>
      <circle cx="12" cy="5" r="2.5" />
      <circle cx="5" cy="18" r="2.5" />
      <circle cx="19" cy="18" r="2.5" />
      <path d="M12 7.5v4M7 16.5l5-5 5 5" />
    </svg>
  );
}
